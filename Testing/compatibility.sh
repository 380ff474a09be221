#!/usr/bin/env bash
# The library's own tests on every Python at hand, in throw-away environments, with four sets of packages each:
#   old:    NumPy 1.26, pydicom 2.4, no highdicom; as in Slicer 5.6 and 5.8, which have Python 3.9
#   middle: NumPy 2.0, pydicom 2.4, no highdicom; as in Slicer 5.10
#   latest: NumPy 2, pydicom 3, highdicom 0.27 where there is one for this Python; as in Slicer 5.12
#   new:    the newest NumPy, pydicom and, where there is one for this Python, highdicom; and PySide6, in which the panel
#           is built in Qt 6
# Other interpreters: PYTHONS="python3.12 /opt/x/bin/python3" Testing/compatibility.sh
set -u
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
tests="Testing/test_slices.py Testing/test_hazards.py Testing/test_bundle.py Testing/test_files.py Testing/test_prediction.py
    Testing/test_network.py Testing/robustness/test_properties.py Testing/test_readers.py Testing/test_dicom_variants.py
    Testing/test_contours.py Testing/test_dicom_objects.py Testing/test_qt6.py"

install() {
    "$work/venv/bin/python" -m pip install --quiet --only-binary :all: --disable-pip-version-check "$@" >"$work/log" 2>&1
}

for python in ${PYTHONS:-python3.9 python3.10 python3.11 python3.12 python3.13}; do
    if ! "$python" -c "" 2>/dev/null; then
        echo "skipped: no $python here"
        continue
    fi
    for set in old middle latest new; do
        rm -rf "$work/venv"
        "$python" -m venv "$work/venv"
        case $set in
            old) packages=("numpy==1.26.*" "pydicom==2.4.*") ;;
            middle) packages=("numpy==2.0.*" "pydicom==2.4.*") ;;
            latest | new) packages=("numpy>=2" "pydicom>=3") ;;
        esac
        if ! install "${packages[@]}" scipy SimpleITK pillow "pytest>=8" hypothesis; then
            echo "skipped: $python with ${packages[*]} cannot be installed ($(tail -n 1 "$work/log"))"
            continue
        fi
        if [ $set = latest ]; then
            install "pydicom>=3" "highdicom==0.27.*" || echo "no highdicom 0.27 for $python"
        fi
        if [ $set = new ]; then
            install "pydicom>=3" "highdicom>=0.27" || echo "no highdicom for $python"
            install PySide6-Essentials || echo "no PySide6 for $python"
        fi
        # shellcheck disable=SC2086  the names of the tests are words of their own
        "$work/venv/bin/python" -m pytest -q -p no:cacheprovider $tests >"$work/log" 2>&1
        code=$?
        grep -E "^(FAILED|ERROR|SKIPPED)|^E  " "$work/log"
        echo "$("$work/venv/bin/python" -c 'import sys, numpy, pydicom; print("Python", sys.version.split()[0],
"NumPy", numpy.__version__, "pydicom", pydicom.__version__)'): $(tail -n 1 "$work/log")"
        [ $code -eq 0 ] || failed=1
    done
done
exit $failed
