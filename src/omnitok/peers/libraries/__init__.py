"""Libraries that compute tokenizers: one file each, whose name stands before the models: `diffusers:FOLDER_OR_HUB_ID`.

`omnitok.hub.names` reads the names of these files, so that nothing has to be imported to know what a name may begin
with. Each file declares its `Family` as FAMILY, with a `Library`.
"""
