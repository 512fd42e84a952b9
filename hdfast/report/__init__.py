"""`hdfast report`: the runs of a sweep beside random, human and published agents, as tables, figures and one page.

    statistics   aggregates, intervals, profiles: numbers only
    run          Run: one run, wherever it was read from
    score_files  score files in DreamerV3's schema: peers' curves in, own curves out
    collect      run directories and score files in folders -> Run; what is broken or unfinished is named
    summary      runs and published scores -> Group, Block: everything the outputs show
    tables       CSV, Markdown, LaTeX, terminal
    figures      matplotlib, nowhere else
    page         the HTML page
    style        colors, the page's style sheet and script
    build        the verb: reads, computes, writes
"""
