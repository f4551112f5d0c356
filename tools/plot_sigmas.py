#!/usr/bin/env python3
"""Plots what tools/sigmas prints: python3 tools/plot_sigmas.py docs/schedulers.png < sigmas.txt (needs matplotlib)."""
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
for line in sys.stdin:
    name, *values = line.split()
    sigmas = [float(v) for v in values]
    axes[0].plot(sigmas, label=name, marker=".", linewidth=1.2)
    axes[1].plot(sigmas[:-1], label=name, marker=".", linewidth=1.2)
axes[0].set(xlabel="step", ylabel="sigma", title="linear")
axes[1].set(xlabel="step", yscale="log", title="logarithmic, without the final 0")
axes[0].legend(fontsize=8)
figure.tight_layout()
figure.savefig(sys.argv[1], dpi=100)
