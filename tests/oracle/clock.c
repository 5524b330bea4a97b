/* Another clock for one process, by LD_PRELOAD: the time of day is that of the machine and the seconds that the file named
 * by ADTALLY_TEST_CLOCK holds, read anew all the time. What measures spans (CLOCK_MONOTONIC) is left alone.
 *
 * Not libfaketime: it asks the allocator for memory before it is ready, and jemalloc asks the clock before it is, so
 * that the two wait for one another before main. Here nothing asks for memory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void)
{
    const char *path = getenv("ADTALLY_TEST_CLOCK");
    char text[32] = {0};
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    long n = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    /* A file that is being written is empty for a moment; then what it said last still holds. */
    static _Atomic long last;
    if (n > 0)
        last = strtol(text, NULL, 10);
    return last;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

/* Whoever waits until a time of day has it from the clock above, and the kernel knows its own only. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    static int (*_Atomic wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!wait)
        wait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec real = *until;
    real.tv_sec -= shift();
    return wait(cond, mutex, &real);
}
