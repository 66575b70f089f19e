"""The labelling run: plan, reader, engines, shards."""
