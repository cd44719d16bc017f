"""Tables: what was measured beside what was published, from records alone.

`specs` says what a table is, `reading` reads the files of configs/tables, `outcomes`
sets records against one, `render` and `pages` make text of it, `figures` pictures.
"""
