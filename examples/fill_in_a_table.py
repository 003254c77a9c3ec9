"""Hide a fifth of a table of measurements, learn from what is left, and fill in the rest.

Needs scikit-learn for the table (569 rows, 30 columns): pip install 'pcflow[sklearn]'.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pcflow.estimator import CircuitDensity

rng = np.random.default_rng(0)
table = load_breast_cancer().data
hidden = rng.random(table.shape) < 0.2
gaps = np.where(hidden, np.nan, table)

scaler = StandardScaler().fit(gaps)
nearest = make_pipeline(scaler, KNNImputer(n_neighbors=10))

# Columns have scales from thousandths to thousands; the estimator standardises them by itself.
density = CircuitDensity(units=16, random_state=0).fit(gaps)
draws = [density.impute(gaps, how="sample", random_state=seed) for seed in range(50)]
filled = {
    "column means": SimpleImputer().fit_transform(gaps),
    "ten nearest rows": scaler.inverse_transform(nearest.fit_transform(gaps)),
    "circuit, posterior means": density.impute(gaps),
}

# How far off, in standard deviations of the column: 1 is no better than the mean.
error = {how: ((values - table) / table.std(axis=0))[hidden] for how, values in filled.items()}
print(f"{'filled in by':28s} root mean square error")
for how, off in error.items():
    print(f"{how:28s} {np.sqrt((off**2).mean()):.3f}")

# A draw shows how sure it is: how often does the middle four fifths of the draws hold the truth?
low, high = np.quantile(draws, [0.1, 0.9], axis=0)
held = ((low <= table) & (table <= high))[hidden].mean()
print(f"\nthe central 80 % of the draws hold the hidden value in {held:.0%} of the cases")
