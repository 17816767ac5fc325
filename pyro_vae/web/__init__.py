"""Pages for a browser: a report as one file that needs no network, and the latent explorer, a local server.

`report` says what stands in the report and fills the template; `numbers` puts estimates and their errors into words;
`figures` and `table_figures` have the figures, as dictionaries for plotly.js; `latents` computes maps and traversals;
`views` shows rows of data as pictures or as cells, and `covariates` has what is known besides x in words. `explored`
answers the explorer's questions about one run, `choices` has the covariates that its user may choose, `explorer` lays
out its page, and `server` serves it. Nothing here evaluates a model beyond what a page shows: the
numbers are computed by `evaluation` and `criticism`.
"""
