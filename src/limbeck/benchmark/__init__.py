"""The benchmark stage: latency, throughput and memory of the evaluated artefacts."""
