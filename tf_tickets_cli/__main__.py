"""`python -m tf_tickets_cli`."""

import sys

from tf_tickets_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
