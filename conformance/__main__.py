"""``python -m conformance`` writes the tables anew."""

from conformance.dicom import FILE, tables

if __name__ == "__main__":
    FILE.write_text(tables(), encoding="utf-8")
