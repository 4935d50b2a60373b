"""The MMS forced aligner: when a recording says each part of a text, in more than a hundred languages.

A Wav2Vec2 encoder with a CTC head (`emission`) says for each 20 ms how likely each Latin letter is; the text is
written in these letters (`romanization`, `script`), and the best path of the one through the other (`trellis`)
becomes times and scores (`spans`, `reading`). Nothing is imported here: the helpers need no torch.
"""
