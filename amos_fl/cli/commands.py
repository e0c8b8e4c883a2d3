"""Every command of `amos-fl`: where it is written, and what the list of commands says of it."""

from amos_fl.cli.lazy import Command, Group

_EXPORT = Group(
    "Write a cohort in the layout of another program.",
    {"nnunet": Command("amos_fl.cli.export:nnunet", "Write a cohort in nnU-Net's raw layout (version 2).")},
)
_DATA = Group(
    "Make a cohort, check one, or write it for another program.",
    {
        "amos22": Command("amos_fl.cli.data:amos22", "Turn an AMOS22 release, as downloaded, into a cohort."),
        "check": Command(
            "amos_fl.cli.data:check",
            "Read every scan and label map of a cohort and say what is wrong. Exit code 2 on errors.",
        ),
        "phantom": Command(
            "amos_fl.cli.data:phantom",
            "Write a synthetic release in AMOS22's layout, with labels for all its cases.",
        ),
        "msd": Command("amos_fl.cli.datasets:msd", "Turn a task of the Medical Segmentation Decathlon into a cohort."),
        "nnunet": Command(
            "amos_fl.cli.datasets:nnunet",
            "Turn a dataset in nnU-Net's raw layout, version 2 or 1, into a cohort.",
        ),
        "relabel": Command(
            "amos_fl.cli.datasets:relabel",
            "Give a cohort AMOS's organs and label values; its label maps stay as they are.",
        ),
        "join": Command(
            "amos_fl.cli.datasets:join",
            "Put the cases of several cohorts into one, such as sites that annotated different organs.",
        ),
        "stats": Command(
            "amos_fl.cli.stats:stats",
            "Measure a cohort as the paper measures AMOS: Tables 1, 2, 8 and 9, Figures 3 and 4.",
        ),
        "export": _EXPORT,
    },
)
_DEPLOY = Group(
    "Run a federation of separate hospitals: keys, bundles, runs.",
    {
        "init": Command(
            "amos_fl.cli.deploy:init",
            "Make a deployment: its authority, the SuperLink's certificate, and a folder for each site.",
        ),
        "enroll": Command(
            "amos_fl.cli.deploy:enroll",
            "At a hospital: make this site's key here, and give out its public half alone.",
        ),
        "register": Command(
            "amos_fl.cli.deploy:register", "At the coordinator: keep the public key that a site handed over."
        ),
        "bundle": Command(
            "amos_fl.cli.deploy:bundle", "Pack exactly what one hospital needs, and nothing of the others'."
        ),
        "admit": Command(
            "amos_fl.cli.deploy:admit",
            "At the coordinator: have the running SuperLink know the registered keys, and no others.",
        ),
        "check": Command(
            "amos_fl.cli.deploy:check",
            "At a hospital: try everything this site needs, and say what is wrong. Exit code 2 when something is.",
        ),
        "run": Command(
            "amos_fl.cli.deploy_run:run",
            "Train one network over the hospitals of a deployment; the run folder is fetched from the SuperLink.",
        ),
        "status": Command(
            "amos_fl.cli.deploy_watch:status",
            "Say how the SuperLink, the sites and the runs of a deployment are. Exit code 2: the SuperLink does not "
            "answer.",
        ),
        "logs": Command(
            "amos_fl.cli.deploy_watch:logs",
            "Print what happened in a run: rounds, losses, scores, sites that were missing and why.",
        ),
        "serve": Command(
            "amos_fl.cli.deploy_watch:serve",
            "Keep runs going: bring each up again, from its last whole round, whose server process died.",
        ),
    },
)
_ANNOTATE = Group(
    "Label scans: a network pre-labels, people correct, the next network learns from them.",
    {
        "start": Command(
            "amos_fl.cli.annotate:start",
            "Pre-label the unlabelled scans, or go on where that was interrupted. Exit code 2 when one could not be "
            "done.",
        ),
        "queue": Command(
            "amos_fl.cli.annotate:queue",
            "The cases that wait, those in the greatest need of correction first, each with its reasons.",
        ),
        "next": Command(
            "amos_fl.cli.annotate:next_case",
            "Take the next case of the queue: its working copy, why it needs correction, and how to open it.",
        ),
        "release": Command(
            "amos_fl.cli.annotate:release",
            "Give a case back to the queue. What was drawn in its working copy stays there.",
        ),
        "import": Command(
            "amos_fl.cli.annotate:import_files",
            "Check, measure and keep what somebody corrected. Exit code 2 when a file was refused.",
        ),
        "retrain": Command(
            "amos_fl.cli.annotate:retrain",
            "Train on from the networks of the round, on everything that people have annotated; or go on with that.",
        ),
        "status": Command(
            "amos_fl.cli.annotate:status", "How far the project has come: cases, rounds, organs and people."
        ),
        "report": Command(
            "amos_fl.cli.annotate:report", "Write report.html, and the numbers in report_data/, into the project."
        ),
    },
)
_EXPERIMENTS = Group(
    "The paper's experiments and ours, each one command.",
    {
        "show": Command(
            "amos_fl.cli.experiments:show",
            "Say what an experiment asks, needs and costs, its steps and where they are, and what the paper printed.",
        ),
        "run": Command(
            "amos_fl.cli.experiments:run",
            "Carry out an experiment. Run again, it skips what is done and goes on where it stopped.",
        ),
    },
    "amos_fl.cli.experiments:experiments",
)
EVERYTHING = Group(
    "Federated organ segmentation in abdominal CT and MR, one client per scanner.",
    {
        "simulate": Command(
            "amos_fl.cli.simulate:simulate",
            "Train one network over the sites of a cohort, and score it on seen and unseen scanners.",
        ),
        "centralized": Command(
            "amos_fl.cli.baselines:centralized",
            "Train one network on the pooled cases of all seen sites, at the cost of the federated run beside it.",
        ),
        "local": Command(
            "amos_fl.cli.baselines:local", "Train each seen site alone, and score every model on all sites."
        ),
        "finetune": Command(
            "amos_fl.cli.baselines:finetune",
            "Continue a federated model at each site on its own cases, and score each at home and everywhere else.",
        ),
        "leave-one-out": Command(
            "amos_fl.cli.baselines:leave_one_out",
            "For every seen site in turn, federate without it and score the result on it.",
        ),
        "sweep": Command(
            "amos_fl.cli.sweep:sweep",
            "One run for every combination of settings; finished ones are skipped when it is run again.",
        ),
        "compare": Command(
            "amos_fl.cli.compare:compare",
            "Compare finished runs on the same test cases: federated, centralized, local, fine-tuned, leave-one-out.",
        ),
        "plan": Command(
            "amos_fl.cli.plan:plan",
            "Make a plan from the training cases' spacing, shape and CT intensities, in nnU-Net's way.",
        ),
        "evaluate": Command(
            "amos_fl.cli.evaluate:evaluate",
            "Score a run's chosen weights on the cases of a cohort, by site and by organ.",
        ),
        "predict": Command(
            "amos_fl.cli.predict:predict",
            "Predict the organs of scans, each on its own grid. Exit code 2 when one could not be predicted.",
        ),
        "report": Command(
            "amos_fl.cli.report:report",
            "Write the report of each run anew: report.html and report_data/ in its folder.",
        ),
        "models": Command(
            "amos_fl.cli.models:models",
            "List the networks: parameters and multiply-accumulates beside the paper's, time and memory on this "
            "device.",
        ),
        "methods": Command(
            "amos_fl.cli.methods:methods",
            "List the federated methods: what each does, its options, and what it costs beyond FedAvg.",
        ),
        "runs": Command(
            "amos_fl.cli.runs:runs",
            "List runs: their state, strategy, test DSC on seen and unseen scanners, and size.",
        ),
        "diff": Command(
            "amos_fl.cli.runs:diff",
            "Name the first round and site at which two runs part, and the settings, cases and versions that differ.",
        ),
        "score": Command(
            "amos_fl.cli.score:score",
            "Score label maps of any program: DSC, NSD, HD95, volumes, organs missed and hallucinated.",
        ),
        "data": _DATA,
        "deploy": _DEPLOY,
        "annotate": _ANNOTATE,
        "experiments": _EXPERIMENTS,
    },
)
