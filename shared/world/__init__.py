"""The small world of the stories: `words` (who, where, what), `plot` (what a plot is), the plots by theme, and
`templates` (how their sentences are filled in)."""

from shared.world import caring, giving, losing, making

PLOTS = {plot.name: plot for module in (losing, giving, making, caring) for plot in module.PLOTS}
