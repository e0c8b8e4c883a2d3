"""Every command of `amos-fl`: the function that it is, in a module of this package, and its line in the list."""

from amos_fl.cli.lazy import CommandGroup

_DATA = CommandGroup(
    "Make a cohort, check one, or write it for another program.",
    {
        "amos22": ("data:amos22", "Turn an AMOS22 release, as downloaded, into a cohort."),
        "check": ("data:check", "Read every scan and label map of a cohort; report what is wrong."),
        "phantom": ("data:phantom", "Write a synthetic release in AMOS22's layout, with labels."),
        "dicom": ("dicom:dicom", "Turn an export of a hospital's archive into a cohort."),
        "msd": ("datasets:msd", "Turn a task of the Medical Segmentation Decathlon into a cohort."),
        "nnunet": ("datasets:nnunet", "Turn a dataset in nnU-Net's raw layout into a cohort."),
        "masks": ("label_files:masks", "Turn scans with a label file for each organ into a cohort."),
        "bids": ("label_files:bids", "Turn a BIDS folder into a cohort."),
        "relabel": ("datasets:relabel", "Give a cohort AMOS's organs and label values."),
        "join": ("datasets:join", "Put the cases of several cohorts into one."),
        "stats": ("stats:stats", "Measure a cohort as the paper measures AMOS."),
        "export": CommandGroup(
            "Write a cohort in the layout of another program.",
            {"nnunet": ("export:nnunet", "Write a cohort in nnU-Net's raw layout (version 2).")},
        ),
    },
)
_DEPLOY = CommandGroup(
    "Run a federation of separate hospitals: keys, bundles, runs.",
    {
        "init": ("deploy:init", "Make a deployment: authority, certificate, a folder for each site."),
        "enroll": ("deploy:enroll", "At a hospital: make this site's key."),
        "register": ("deploy:register", "At the coordinator: keep the public key of a site."),
        "bundle": ("deploy:bundle", "Pack what one hospital needs, and nothing of the others'."),
        "admit": ("deploy:admit", "At the coordinator: tell the SuperLink the registered keys."),
        "check": ("deploy:check", "At a hospital: test everything that this site needs."),
        "run": ("deploy_run:run", "Train one network over the hospitals of a deployment."),
        "status": ("deploy_watch:status", "Show the state of the SuperLink, the sites and the runs."),
        "logs": ("deploy_watch:logs", "Print what happened in a run."),
        "serve": ("deploy_watch:serve", "Restart runs whose server process died."),
    },
)
_ANNOTATE = CommandGroup(
    "Label scans: a network pre-labels, people correct, the next network learns from them.",
    {
        "start": ("annotate:start", "Pre-label the unlabelled scans, or resume."),
        "queue": ("annotate:queue", "List the waiting cases, those in greatest need first."),
        "next": ("annotate:next_case", "Take the next case from the queue."),
        "release": ("annotate:release", "Give a case back to the queue."),
        "import": ("annotate:import_files", "Check, measure and store corrections."),
        "retrain": ("annotate:retrain", "Continue training the round's networks."),
        "status": ("annotate:status", "Show the project's progress."),
        "report": ("annotate:report", "Write the project's report.html."),
    },
)
_EXPERIMENTS = CommandGroup(
    "The paper's experiments and ours, one command each.",
    {
        "show": ("experiments:show", "Describe an experiment: its question, data, cost and steps."),
        "run": ("experiments:run", "Carry out an experiment, or resume it."),
        "results": ("experiments:results", "Write the results of experiments and runs as one page."),
    },
    alone="experiments:experiments",
)
EVERYTHING = CommandGroup(
    "Federated organ segmentation in abdominal CT and MR, one client per scanner.",
    {
        "doctor": ("doctor:doctor", "Say what this machine has and lacks, and what to do."),
        "init": ("init:init", "Write the settings of a first run, asking five questions."),
        "simulate": ("simulate:simulate", "Train one network over the sites of a cohort."),
        "centralized": ("baselines:centralized", "Train one network on the pooled cases of all seen sites."),
        "local": ("baselines:local", "Train each seen site alone."),
        "finetune": ("baselines:finetune", "Fine-tune a federated model at each site on its own cases."),
        "leave-one-out": ("baselines:leave_one_out", "Federate without each seen site in turn."),
        "sweep": ("sweep:sweep", "One run for every combination of settings."),
        "compare": ("compare:compare", "Compare finished runs on the same test cases."),
        "plan": ("plan:plan", "Make a plan from the training cases, in nnU-Net's way."),
        "evaluate": ("evaluate:evaluate", "Score a run's chosen weights on the cases of a cohort."),
        "calibrate": ("calibrate:calibrate", "Learn what DSC to expect of predictions without a label."),
        "predict": ("predict:predict", "Predict the organs of scans, each on its own grid."),
        "export": ("export_model:export", "Write a trained network for another program (MONAI, ONNX, TorchScript)."),
        "report": ("report:report", "Rewrite the report of each run."),
        "models": ("models:models", "List the networks and what they cost."),
        "methods": ("methods:methods", "List the federated methods, their options and what they cost."),
        "runs": ("runs:runs", "List runs: their state, strategy, test DSC and size."),
        "watch": ("watch:watch", "Watch a run: rounds, sites, losses, scores, time left."),
        "track": ("track:track", "Send runs to MLflow, Weights & Biases or a tracker of your own."),
        "diff": ("runs:diff", "Find the first round and site at which two runs differ."),
        "score": ("score:score", "Score label maps made by any program."),
        "data": _DATA,
        "deploy": _DEPLOY,
        "annotate": _ANNOTATE,
        "experiments": _EXPERIMENTS,
    },
)
