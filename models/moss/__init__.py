"""MOSS-TTS-Nano: multilingual speech in 48 kHz stereo, native and batched.

A *row* of the language model is one text id and K audio codes of the same 80 ms: there is no delay between
codebooks. The global transformer takes one row per step; the local transformer spells the frame that follows,
first whether there is one (the gate), then its K codes. The codec turns codes into sound, causally.

| file             | holds                                                                   |
|------------------|-------------------------------------------------------------------------|
| `config`         | the sizes, read from the two `config.json`                              |
| `weights`        | tensors from safetensors, with their shapes checked                     |
| `linear`         | a linear layer in the form that the device runs fastest                 |
| `language_model` | global and local transformer                                            |
| `sampling`       | penalty, temperature, top-k, top-p, and the draw                        |
| `frames`         | one step: a row in, a frame out, for all slots of a bucket              |
| `slots`          | the engine's slot model: caches, prefill, voices shared between rows    |
| `codec`          | encoder, quantiser, decoder; any chunking gives the same result         |
| `codec_calls`    | the engine's batch models for both directions of the codec              |
| `tokenizer`      | SentencePiece without control tokens from users                         |
| `prompt`         | the rows of a request                                                   |
| `cleaning`, `verbalizing`, `chunking` | from a text to what is spoken at a time            |
| `voices`         | reference clips and the built-in voices                                 |
| `speech`         | a whole text: its chunks in flight, their sound in order                |
| `handler`        | the model as the worker sees it                                         |
"""
