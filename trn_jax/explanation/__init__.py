"""Why a model says so: values of frames, the effect of their order, and where it looks."""
