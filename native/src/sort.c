/* sort.c: heapsort. Private memory only: whoever dies here leaves nothing.
 *
 * I1  What keyed_lowest has been given is a heap with the highest key on top, as soon as there are `most`: the next one takes its
 *     place, or is left out. So one pass over any number of blocks ends with the `most` lowest of them.
 */
#include "sort.h"

static void sift(keyed_block *a, uint32_t root, uint32_t n) {
    for (uint32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && a[child + 1].key > a[child].key) child++;
        if (a[root].key >= a[child].key) return;
        keyed_block t = a[root];
        a[root] = a[child];
        a[child] = t;
    }
}

static void heap(keyed_block *a, uint32_t n) {
    for (uint32_t i = n / 2; i-- > 0;) sift(a, i, n);
}

void keyed_sort(keyed_block *a, uint32_t n) {
    heap(a, n);
    for (uint32_t i = n; i-- > 1;) {
        keyed_block t = a[0];
        a[0] = a[i];
        a[i] = t;
        sift(a, 0, i);
    }
}

/* One more, to n that were given before: how many of them, `most` at most, are kept in a[]. */
uint32_t keyed_lowest(keyed_block *a, uint32_t n, uint32_t most, keyed_block one) {
    if (n < most) {
        a[n++] = one;
        if (n == most) heap(a, n);   /* I1 */
    } else if (one.key < a[0].key) {
        a[0] = one;
        sift(a, 0, n);
    }
    return n;
}
