"""The ground floor: knows nothing of faces, stages or options."""
