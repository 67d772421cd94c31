"""``python -m conformance`` runs the suite; ``python -m conformance tables`` writes the documents' tables anew."""

import sys

from conformance import namespace
from conformance.dicom import FILE, tables

if __name__ == "__main__":
    if sys.argv[1:] == ["tables"]:
        FILE.write_text(tables(), encoding="utf-8")
    elif not namespace.inside():
        sys.exit(namespace.enter())
    else:
        from conformance.suite import main

        sys.exit(main())
