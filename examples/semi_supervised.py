"""Labels for a few rows: ten of each digit have one, and the other rows still teach the classifier.

`SemiSupervisedVAE` (model M2 of Kingma et al., 2014) draws a digit from its label y and a latent z, which is left with
the style. Where a label is unknown, log p(x) is the sum over all ten, exactly. The classifier q(y | x) is trained by
the rows with a label, and by what the labels of the other rows must be for the model to explain them. Beside it stands
the same net that saw the 100 rows with a label alone. Digits are scikit-learn's, in black and white.

What to look for
- Accuracy on test digits: the rows without labels help. So they do in the scores that judge probabilities, log loss and
  Brier score.
- p(y | x), by Bayes' rule and importance sampling over z, is another classifier from the same model.
- Log p(x, y) of a test digit under its own label is above that under other labels, by what a label says.
- In the figure on the left each line has one style z, of the test digit at its beginning, under every label.
- On the right, points below the diagonal are guesses that were too confident.

Run it: `python semi_supervised.py` (two to three minutes); `--smoke` only checks that it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import plots

SHAPE, CLASSES, EACH = (1, 8, 8), 10, 10
CLASSIFIER = pv.nets.MLP((64,), dropout=0.3)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training rows and labels, test rows and labels."""
    splits = pv.datasets.load("digits", fields=("label",))
    (x, y), (test_x, test_y) = (((s.x > 7).float(), s.field("label").long()) for s in (splits.train, splits.test))
    return x, y, test_x, test_y


def classifier_alone(x: Tensor, y: Tensor, test_x: Tensor, steps: int) -> Tensor:
    """Probabilities of test rows by the same net, trained on the rows with a label."""
    torch.manual_seed(0)
    net = CLASSIFIER.build(SHAPE, (CLASSES,))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        probabilities: Tensor = net.eval()(test_x).softmax(1)
    return probabilities


def scores(probabilities: Tensor, label: Tensor) -> str:
    """Accuracy, log loss and Brier score, with standard errors."""
    p, known = probabilities.double(), torch.nn.functional.one_hot(label, CLASSES)
    parts = [(p.argmax(1) == label).double(), -(p * known).sum(1).log(), (p - known).square().sum(1)]
    return "".join(f"{part.mean():10.3f} +- {part.std() / len(part) ** 0.5:.3f}" for part in parts)


def main(args: argparse.Namespace) -> None:
    epochs, steps, particles = (2, 10, 30) if args.smoke else (150, 1000, 1000)
    x, y, test_x, test_y = digits()
    known = torch.cat([(y == digit).nonzero().flatten()[:EACH] for digit in range(CLASSES)])
    label = torch.full_like(y, -1)
    label[known] = y[known]
    vae = pv.SemiSupervisedVAE(
        labels=CLASSES,
        likelihood=pv.likelihoods.Bernoulli(SHAPE),
        prior=pv.priors.Normal(6),
        classifier=CLASSIFIER,
        classifier_weight=20.0,
        seed=0,
    )
    vae.fit(x, fields={"label": label}, epochs=epochs, batch_size=50, seed=0)

    alone = classifier_alone(x[known], y[known], test_x, steps)
    posterior = vae.classify(test_x, method="posterior", num_particles=particles // 10, seed=0)
    print(f"\n{len(x)} training rows, {len(known)} with a label; {len(test_x)} test rows")
    print(f"{'':<28}{'accuracy':>10}{'log loss, nats':>24}{'Brier score':>18}")
    for name, probabilities in {
        "net, 100 rows with a label": alone,
        "q(y | x), all rows": vae.classify(test_x),
        "p(y | x), all rows": posterior,
    }.items():
        print(f"{name:<28}{scores(probabilities, test_y)}")

    few, own = test_x[:100], test_y[:100]
    calls = {
        "log p(x, y), own label": {"label": own},
        "log p(x, y), next label": {"label": (own + 1) % CLASSES},
        "log p(x)": {},
    }
    print("\nNats per row, 100 test rows")
    for name, fields in calls.items():
        found = vae.log_likelihood(few, num_particles=particles, seed=0, fields=fields)
        print(f"{name:<28}{found.estimate.mean():10.2f}")

    result = pv.classification(vae, test_x, label=test_y)
    print(f"\n{result}")
    args.out.mkdir(parents=True, exist_ok=True)
    shown = torch.cat([(test_y == digit).nonzero().flatten()[:1] for digit in (2, 3, 5, 7, 9)])
    z = vae.encode(test_x[shown], label=test_y[shown]).mean
    means = [vae.decode(style.expand(CLASSES, -1), label=torch.arange(CLASSES)).mean for style in z]
    lines = [torch.cat([digit[None], each]) for digit, each in zip(test_x[shown], means, strict=True)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), width_ratios=(2, 1), layout="constrained")
    plots.images(torch.cat(lines), columns=CLASSES + 1, title="a test digit, and its style as 0 to 9", ax=left)
    result.plot(ax=right)
    right.set_title("q(y | x), test rows")
    figure.savefig(args.out / "semi_supervised.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see whether it runs")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for the figures")
    main(parser.parse_args())
