"""Every command of `amos-fl`: the function that it is, in a module of this package, and its line in the list."""

from amos_fl.cli.lazy import Group

_DATA = Group(
    "Make a cohort, check one, or write it for another program.",
    {
        "amos22": ("data:amos22", "Turn an AMOS22 release, as downloaded, into a cohort."),
        "check": ("data:check", "Read every scan and label map of a cohort; say what is wrong."),
        "phantom": ("data:phantom", "Write a synthetic release in AMOS22's layout, with labels."),
        "msd": ("datasets:msd", "Turn a task of the Medical Segmentation Decathlon into a cohort."),
        "nnunet": ("datasets:nnunet", "Turn a dataset in nnU-Net's raw layout into a cohort."),
        "relabel": ("datasets:relabel", "Give a cohort AMOS's organs and label values."),
        "join": ("datasets:join", "Put the cases of several cohorts into one."),
        "stats": ("stats:stats", "Measure a cohort as the paper measures AMOS."),
        "export": Group(
            "Write a cohort in the layout of another program.",
            {"nnunet": ("export:nnunet", "Write a cohort in nnU-Net's raw layout (version 2).")},
        ),
    },
)
_DEPLOY = Group(
    "Run a federation of separate hospitals: keys, bundles, runs.",
    {
        "init": ("deploy:init", "Make a deployment: authority, certificate, a folder for each site."),
        "enroll": ("deploy:enroll", "At a hospital: make this site's key."),
        "register": ("deploy:register", "At the coordinator: keep the public key of a site."),
        "bundle": ("deploy:bundle", "Pack what one hospital needs, and nothing of the others'."),
        "admit": ("deploy:admit", "At the coordinator: have the SuperLink know the registered keys."),
        "check": ("deploy:check", "At a hospital: try everything that this site needs."),
        "run": ("deploy_run:run", "Train one network over the hospitals of a deployment."),
        "status": ("deploy_watch:status", "Say how the SuperLink, the sites and the runs are."),
        "logs": ("deploy_watch:logs", "Print what happened in a run."),
        "serve": ("deploy_watch:serve", "Bring runs up again whose server process died."),
    },
)
_ANNOTATE = Group(
    "Label scans: a network pre-labels, people correct, the next network learns from them.",
    {
        "start": ("annotate:start", "Pre-label the unlabelled scans, or go on with that."),
        "queue": ("annotate:queue", "The cases that wait, those in the greatest need first."),
        "next": ("annotate:next_case", "Take the next case of the queue."),
        "release": ("annotate:release", "Give a case back to the queue."),
        "import": ("annotate:import_files", "Check, measure and keep what somebody corrected."),
        "retrain": ("annotate:retrain", "Train on from the networks of the round."),
        "status": ("annotate:status", "How far the project has come."),
        "report": ("annotate:report", "Write the project's report.html."),
    },
)
_EXPERIMENTS = Group(
    "The paper's experiments and ours, each one command.",
    {
        "show": ("experiments:show", "Say what an experiment asks, needs and costs, and its steps."),
        "run": ("experiments:run", "Carry out an experiment, or go on where it stopped."),
        "results": ("experiments:results", "Write what experiments and runs gave as one page."),
    },
    alone="experiments:experiments",
)
EVERYTHING = Group(
    "Federated organ segmentation in abdominal CT and MR, one client per scanner.",
    {
        "simulate": ("simulate:simulate", "Train one network over the sites of a cohort."),
        "centralized": ("baselines:centralized", "Train one network on the pooled cases of all seen sites."),
        "local": ("baselines:local", "Train each seen site alone."),
        "finetune": ("baselines:finetune", "Continue a federated model at each site on its own cases."),
        "leave-one-out": ("baselines:leave_one_out", "Federate without each seen site in turn."),
        "sweep": ("sweep:sweep", "One run for every combination of settings."),
        "compare": ("compare:compare", "Compare finished runs on the same test cases."),
        "plan": ("plan:plan", "Make a plan from the training cases, in nnU-Net's way."),
        "evaluate": ("evaluate:evaluate", "Score a run's chosen weights on the cases of a cohort."),
        "predict": ("predict:predict", "Predict the organs of scans, each on its own grid."),
        "export": ("export_model:export", "Write a trained network for another program (MONAI, ONNX, TorchScript)."),
        "report": ("report:report", "Write the report of each run anew."),
        "models": ("models:models", "List the networks and what they cost."),
        "methods": ("methods:methods", "List the federated methods, their options and what they cost."),
        "runs": ("runs:runs", "List runs: their state, strategy, test DSC and size."),
        "diff": ("runs:diff", "Name the first round and site at which two runs part."),
        "score": ("score:score", "Score label maps of any program."),
        "data": _DATA,
        "deploy": _DEPLOY,
        "annotate": _ANNOTATE,
        "experiments": _EXPERIMENTS,
    },
)
