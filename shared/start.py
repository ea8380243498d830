# %% [markdown]
# # Start here
#
# Six weeks, and at their end you have written every part of a large language model yourself. The calendar says where
# you are and what comes next. Run its cell (click into it, then Shift+Enter) to bring it up to date.

# %%
from shared import home

home()

# %% [markdown]
# In a lesson, run one cell after the other. Where an exercise comes, write the answer into its cell and run the
# `check` below it. It says whether you are right, and, if it knows your mistake, which one it is. When you are stuck,
# `hint(name)` gives the next of three hints, and `name = borrow("name")` lends you the course's answer.
#
# What you pass is saved in the folder `work`, and later weeks run it. In a terminal, `sixweeks status` says what the
# calendar says.
