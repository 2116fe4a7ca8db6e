"""Values that every room uses: parameters, interactions, splits, metrics. numpy and scipy only."""
