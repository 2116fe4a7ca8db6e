"""Every TOML file of fedrec, checked once. The only package that uses pydantic.

    site.toml        SiteConfig         one institution: its site, its owner, its limits
    schema.toml      SchemaConfig       what its rows look like; public, and all that the mock is made from
    consortium.toml  ConsortiumConfig   the members and the item catalogue they share
    RUN.toml         RunConfig          what `fedrec run` does

`load` raises one ConfigError with all problems of the file; settings of models are checked by the models.
"""

from fedrec.config.consortium import ConsortiumConfig, Member
from fedrec.config.run import RunConfig
from fedrec.config.schema import Columns, Core, Feature, MockSize, RatingScale, SchemaConfig, TimeUnit
from fedrec.config.site import Limits, SiteConfig, Source
from fedrec.errors import ConfigError

__all__ = [
    "Columns",
    "ConfigError",
    "ConsortiumConfig",
    "Core",
    "Feature",
    "Limits",
    "Member",
    "MockSize",
    "RatingScale",
    "RunConfig",
    "SchemaConfig",
    "SiteConfig",
    "Source",
    "TimeUnit",
]
