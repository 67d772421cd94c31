"""The review console: the specialist's web application. The only place of allpacs that is asynchronous.

================= =====================================================================================
`app.py`          composition: every route with the permission it asks for
`server.py`       the process: an HTTP server over the application
`access.py`       who a visitor is and what they may do; sessions, request forgery, security headers
`oidc.py`         sign-in through the hospital's OpenID Connect provider
`visit.py`        one request with everything that its handler needs
`rendering.py`    templates, languages, how numbers and times are written
`patients.py`     whom studies are about: read from the spool's headers, kept in memory only
`cells.py`        cells of a revision with what people decided, sorted and filtered
`pictures.py`     crops, fields and overlays from the spool
`bundle.py`       the model bundle in use, which a change asked for here may replace
`activation.py`   where its network looked
`trend.py`        drift: weeks of what was summed up in the store
`faults.py`       what went wrong, in the reader's language
`live.py`         server-sent events
`pages/`          the handlers, one file a page
================= =====================================================================================

Handlers are plain functions that run in threads; only uploads, live events and sign-in are coroutines.
"""
