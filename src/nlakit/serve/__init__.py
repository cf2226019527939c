"""The server: an NLA behind HTTP, and the page in front of it.

`app.create_app(nla, settings)` is the whole application. A request becomes a job in a fair queue
(`queue`), its rows are written in one batch shared by all requests (`runner`), and come back at
once or as a stream (`stream`).
"""
