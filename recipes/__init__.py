"""The recipe layer: trains, evaluates and curates. Pure Python; vendor packages load only when a backend is opened."""
