"""Reading a site's audit log: find, export, index, pack, merge, replay, reconcile. Nothing here changes a log."""
