#!/usr/bin/env bash
# The library's own tests on every Python at hand, with the oldest and the newest NumPy, in throw-away environments.
# Slicer 5.6 has Python 3.9 and pydicom 2.4, which goes with NumPy 1.26 here; a newer pydicom goes with NumPy 2.
# Other interpreters: PYTHONS="python3.12 /opt/x/bin/python3" Testing/compatibility.sh
set -u
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
for python in ${PYTHONS:-python3.9 python3.10 python3.11 python3.12 python3.13}; do
    if ! "$python" -c "" 2>/dev/null; then
        echo "skipped: no $python here"
        continue
    fi
    for numpy in "numpy==1.26.*" "numpy>=2"; do
        case $numpy in numpy==1.26.*) pydicom="pydicom==2.4.*" ;; *) pydicom="pydicom>=2.4" ;; esac
        rm -rf "$work/venv"
        if ! { "$python" -m venv "$work/venv" && "$work/venv/bin/python" -m pip install --quiet --only-binary :all: \
               --disable-pip-version-check "$numpy" scipy "$pydicom" SimpleITK "pytest>=8" hypothesis; } >"$work/log" 2>&1; then
            echo "skipped: $python with $numpy cannot be installed ($(tail -n 1 "$work/log"))"
            continue
        fi
        "$work/venv/bin/python" -m pytest -q -p no:cacheprovider Testing/test_slices.py Testing/test_hazards.py \
            Testing/test_bundle.py Testing/test_files.py Testing/test_prediction.py Testing/test_network.py \
            Testing/test_dicom_objects.py Testing/robustness/test_properties.py >"$work/log" 2>&1
        code=$?
        grep -E "^(FAILED|ERROR)|^E  " "$work/log"
        echo "$("$work/venv/bin/python" -c 'import sys, numpy; print("Python", sys.version.split()[0], "NumPy", numpy.__version__)'): $(tail -n 1 "$work/log")"
        [ $code -eq 0 ] || failed=1
    done
done
exit $failed
