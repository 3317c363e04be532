"""The entry point `verl.plugins`: registers our methods when it is imported.

verl loads entry points and does not call them, so the work is done on import.
"""

from apportion.integrations.verl import register

names = register()
