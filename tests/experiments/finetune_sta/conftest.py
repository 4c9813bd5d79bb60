"""A training step and what is measured are large programs for tiny models: compiling them takes the time."""

from tests.models.pipelines.conftest import quickly as quickly
