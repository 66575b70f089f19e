"""What training shares between teachers and students; needs torch."""

from .threads import wait_quietly

wait_quietly()  # before torch is loaded, so that its threads do not spin while they wait
