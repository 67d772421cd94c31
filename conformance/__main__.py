"""``python -m conformance`` runs the suite; ``python -m conformance documents`` writes the documents anew."""

import sys

from conformance import namespace

if __name__ == "__main__":
    if sys.argv[1:] == ["documents"]:
        from conformance.documents import DOCUMENTS

        for file, made in DOCUMENTS.items():
            file.write_text(made(), encoding="utf-8")
    elif not namespace.inside():
        sys.exit(namespace.enter())
    else:
        from conformance.suite import main

        sys.exit(main())
