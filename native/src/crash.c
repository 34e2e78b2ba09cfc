/* crash.c: SIGKILL at a named point, the n-th time that it is reached: SHMQ_CRASH=name:n. Only with -DSHMQ_CRASHPOINTS.
 *
 * For tests. The name is looked up once per process.
 */
#include "atomic.h"

#ifdef SHMQ_CRASHPOINTS
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void shmq_crash_point(const char *name) {
    static const char *wanted;
    static long left;
    if (wanted == NULL) {
        const char *text = getenv("SHMQ_CRASH");
        const char *colon = text ? strchr(text, ':') : NULL;
        static char copy[64];
        if (text) snprintf(copy, sizeof copy, "%.*s", colon ? (int)(colon - text) : (int)strlen(text), text);
        left = colon ? atol(colon + 1) : 1;
        wanted = copy;
    }
    if (*wanted && strcmp(wanted, name) == 0 && --left == 0) kill(getpid(), SIGKILL);
}
#endif
