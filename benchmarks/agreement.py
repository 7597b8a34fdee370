"""Do the frameworks agree, tensor by tensor, and does the suite that says so catch every planted fault?

`python -m conversion verify --full` on this machine, its figures drawn.
"""

from matplotlib.backends.backend_agg import FigureCanvasAgg

from conversion.agreement import figures, full
from ms_bert.device import quiet_logs


def measure(output):
    quiet_logs()
    report = full.everything("CPU")
    assert report.trajectory is not None
    for name, figure in (
        ("trajectory", figures.trajectory(report.trajectory)),
        ("faults", figures.faults(report.faults)),
        ("errors", figures.errors_by_layer([f for f in report.findings if f.case == "base"])),
    ):
        FigureCanvasAgg(figure)
        figure.savefig(output / f"agreement_{name}.png", dpi=110)
    return full.summary(report)
