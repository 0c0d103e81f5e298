"""The environment of the benchmarks, made when it is missing.

``benchmarks/.venv`` (or ``$BENCH_VENV``) gets the package with the extras
``postgresql`` and ``mysql``, and ``requirements.txt``; its folder ``node``
gets what ``node/package.json`` names, if node and npm are there.  Needs only
the standard library.
"""

import os
from pathlib import Path
import shutil
import subprocess
import sys

HERE = Path(__file__).parent
ROOT = HERE.parent
VENV = Path(os.environ.get('BENCH_VENV', HERE / '.venv')).absolute()
PYTHON = VENV / 'bin' / 'python'
NODE = VENV / 'node'


def say(text):
    """Print what goes on."""
    print(f'==> {text}', flush=True)


def _is_newer(stamp, *sources):
    return stamp.exists() and all(
        stamp.stat().st_mtime >= source.stat().st_mtime for source in sources
    )


def prepare():
    """Make the Python environment, if it is missing or old."""
    stamp = VENV / '.benchmarks'
    if _is_newer(stamp, ROOT / 'setup.py', HERE / 'requirements.txt'):
        return
    say(f'Installing what is measured into {VENV}')
    if not PYTHON.exists():
        subprocess.run([sys.executable, '-m', 'venv', VENV], check=True)
    subprocess.run(
        [
            *(PYTHON, '-m', 'pip', 'install', '--quiet'),
            '--disable-pip-version-check',
            *('--editable', f'{ROOT}[postgresql,mysql]', 'webtest'),
            *('-r', HERE / 'requirements.txt'),
        ],
        check=True,
    )
    stamp.touch()


def enter(module):
    """Run *module* with the environment's Python, unless we do already."""
    prepare()
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), '-m', module, *sys.argv[1:]])  # noqa: S606


def prepare_node():
    """Install the Node packages; return None, or why that cannot be."""
    for program in ('node', 'npm'):
        if shutil.which(program) is None:
            return f'{program} is not on this machine'
    stamp = NODE / '.benchmarks'
    manifest = HERE / 'node' / 'package.json'
    NODE.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / 'node' / 'worker.js', NODE)
    if _is_newer(stamp, manifest):
        return None
    say(f'Installing the packages of Node into {NODE}')
    shutil.copy(manifest, NODE)
    done = subprocess.run(
        ['npm', 'install', '--no-audit', '--no-fund', '--silent'],  # noqa: S607
        cwd=NODE, capture_output=True, text=True,
    )
    if done.returncode:
        return f'npm install failed: {done.stderr.strip()[-200:]}'
    stamp.touch()
    return None
