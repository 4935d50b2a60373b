"""Manifests in the shapes that speech people have them in, a noun to a module.

    file ──► sniffing ──► layout ──► lines ──► json_lines or table ──► columns ──► a request
             what is it?  how to      numbered  records of names        which argument
                          read it     bytes     and values              a column fills

`layout` has the table of the formats, `columns` what each column means for each kind of job.
"""
