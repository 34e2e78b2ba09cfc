/* ring.pml: publish, take, ack, nack, death and recovery on one queue (work ring + redelivery ring). See README.md. */
#include "core.inc"

init {
    atomic {
        ow[1] = OW(ALIVE, 0); ow[2] = OW(ALIVE, 0); ow[3] = OW(ALIVE, 0);
        ow[4] = OW(ALIVE, 0); ow[5] = OW(ALIVE, 0);
#if P2
        prodlive = 2; conslive = 1;
        run Producer(1, 0, NM - 1);
        run Producer(2, NM - 1, 1);
        run Consumer(3);
#else
        prodlive = 1; conslive = 2;
        run Producer(1, 0, NM);
        run Consumer(2);
        run Consumer(3);
#endif
        run Recoverer(4, 0);
        run Recoverer(5, 4)
    }
}
