"""Combines nodes of a graph into those that runtimes have fast kernels for."""


def fuse(graph, outputs):
    """The nodes that outputs depend on, combined.

    Args:
        graph: the `Graph`.
        outputs: names of its results.
    """
    return _needed(graph.nodes, outputs)


def _needed(nodes, outputs):
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if node.output in wanted:
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
