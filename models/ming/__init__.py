"""Ming-omni-tts: speech, music and sound effects at 44.1 kHz, by flow matching on an autoregressive backbone.

A text prompt runs through a Qwen2 decoder. Its last hidden state conditions a small bidirectional
transformer which, by flow matching, makes one *patch* of audio latents. The patch, compressed to one
vector, is the next input of the decoder, and a linear head says which patch is the last. A variational
autoencoder turns latents into samples.

    samples ── hop (882) ──> frame ── 4 ──> latent (80 ms) ── 4 ──> patch (320 ms, one step)

What the published loop does otherwise, and this one does not:

- A guidance of 0 or 1 breaks it. Here 0 is the conditional flow alone, and 1 a number like any other.
- At the limit of steps it loses the patch that its decoder still holds, and the overlap behind it.
- The latents of prompt audio are drawn anew each time. Here the job's seed draws them, or they are the mean.
- The whole-model cast rounds the angles of rotations and the window of the synthesis to bf16.
- Control tokens in a submitter's text are read as such and shift the places of voices.
- Recordings of two channels break it, and what its asserts say is for its authors.

Its quirks that are part of what the model learned are kept: the instruction behind the assistant's header, the
transcript and the text with nothing between them, 4 of 24 layers of the audio encoder (a setting, see
`checks.py`), 65 keys where the file says 64, at least five patches.

Besides the letters of `soundmill.models`: H width of the decoder, D width of the flow network, C channels
of a latent, P latents of a patch, N steps of the flow solver, R rows of a batch with both guidance branches.
"""
