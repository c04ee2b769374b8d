#!/usr/bin/env bash
# Installs a wheel of rlkd into a virtual environment of its own, and sees that it runs.
#   bash docker/install.sh FOLDER WHEEL
set -euo pipefail
folder=$1 wheel=$2
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --no-cache-dir "$wheel[timm,detection,export,hub]"
cd / # where no source is
"$folder/bin/rlkd" --version
"$folder/bin/rlkd" show data=digits > /dev/null
