"""The data room: raw files -> prepared folder -> immutable Dataset, and the sampler that draws batches from it."""
