"""`model/calibration.json`: how to expect a DSC of a prediction without a label, learned on seen sites' validation cases.

`RUN/expected.json` beside it says how well that held on the run's test cases.
"""
