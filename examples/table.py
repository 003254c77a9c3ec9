"""From a table of any columns to P(income | ...): labels, dates, amounts that are often zero, gaps.

Needs scikit-learn; with pandas the table is a DataFrame, without it a dict of columns:
pip install 'pcflow[pandas]'.
"""

import numpy as np

from pcflow.estimator import CircuitDensity

# 3,000 people, drawn: older and better educated ones earn more, and those own more.
rng, N = np.random.default_rng(0), 3_000
age = rng.integers(17, 90, N)
school = rng.choice(["school", "college", "doctorate"], N, p=[0.5, 0.4, 0.1])
job = np.where(school == "doctorate", "professor", rng.choice(["nurse", "smith", "clerk"], N))
hired = np.datetime64("1990-01-01") + rng.integers(0, 12_000, N)
wage = np.exp(rng.normal(2.0 + 0.015 * np.minimum(age, 60) + 0.5 * (school == "doctorate"), 0.4))
gain = np.where(rng.random(N) < 0.93, 0, np.exp(rng.normal(8, 1, N)).round())  # mostly zero
income = np.where(rng.random(N) < 1 / (1 + np.exp(-(wage - 25) / 5)), ">50K", "<=50K")
jobs = [None if hidden else name for hidden, name in zip(rng.random(N) < 0.1, job, strict=True)]
people = {"age": age, "school": school, "job": jobs, "hired": hired, "wage": wage, "gain": gain}
table = people | {"income": income}
try:
    import pandas

    table = pandas.DataFrame(table)
except ImportError:
    pass

density = CircuitDensity(random_state=0).fit(table)
print("P(income | age), all else unknown")
found = density.predict_proba({"age": [25, 60]}, "income")
for years, share in zip([25, 60], found[">50K"], strict=True):
    told = income[abs(age - years) <= 5] == ">50K"
    print(f"  more than 50K at {years}: {share:.2f}, in the table {told.mean():.2f}")

drawn = density.sample(2_000, random_state=0)
print(
    f"gains of zero: {(drawn['gain'] == 0).mean():.0%} drawn, {(gain == 0).mean():.0%} in the table"
)
filled = density.impute({"school": ["doctorate", "school"], "job": [None, None]}, how="mpe")
print("most probable jobs of a doctor and a pupil:", ", ".join(filled["job"]))
expert = density.condition({"job": "professor", "age": 40})
wages = expert.sample(1_000, random_state=0)["wage"]
print(f"wage of a professor of 40: {wages.mean():.1f} on average")
density.save("people.safetensors")
again = CircuitDensity.load("people.safetensors")
print(f"{again.score(table):.3f} nats per row, from the file as well")
