"""Reports on runs: tables, plots and a page from results, scores and logs."""
