"""How many examples a test draws where each takes long: 12, or half of what a profile says."""

from hypothesis import settings

few = settings(max_examples=settings.default.max_examples // 2)
