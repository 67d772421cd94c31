"""How fast allpacs is, as ratios: every row runs allpacs and a peer in turns, in one run, on one machine.

`python -m benchmarks` (``make bench``) runs the rows, writes ``benchmarks/latest.json`` and the table and plots of
``docs/performance.md``; `--quick` (``make bench-quick``) runs smaller ones to see that they work. These are programs,
not tests: nothing fails because a machine is slow.

    measure.py     one figure: ours and the peer's in turns, the median of each, the spread of the ratio
    instances.py   the studies that are sent
    receivers.py   what takes them: allpacs, DCMTK's storescp, Orthanc
    peers/         the straightforward plugin that allpacs is compared with
    rows/          one file a subject: receive, classify, plugin, reports, growth and memory, readiness
"""
