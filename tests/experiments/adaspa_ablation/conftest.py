"""Every setting of AdaSpa is a program of its own: compiling them is what takes the time here too."""

from tests.models.pipelines.conftest import quickly as quickly
