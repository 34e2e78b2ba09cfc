/* recovery.pml: two recoverers against each other, killed in recovery, while the dead owner's slot is used again. See README.md. */
#include "core.inc"

init {
    atomic {
        ow[1] = OW(ALIVE, 0); ow[2] = OW(ALIVE, 0); ow[4] = OW(ALIVE, 0); ow[5] = OW(ALIVE, 0);
        prodlive = 1; conslive = 1;
        run Producer(1, 0, NM);
        run Consumer(2);
        run Recoverer(4, 0);
        run Recoverer(5, 0)
    }
}
