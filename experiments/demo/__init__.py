"""The main job: the same clips with dense and sparse attention, side by side, measured."""
