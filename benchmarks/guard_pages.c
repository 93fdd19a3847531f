/* Puts each tensor and work buffer of TensorFlow in front of read-only pages.

A write past the end of such a buffer ends the process with SIGSEGV. A smaller one, into
the bytes that align the buffer, is found when it is freed or at the end, as is one
before the start; it ends the process with SIGABRT. Freed memory can neither be read nor
written. New memory is filled with NaN, so a value that is read before it is written
shows. Writes from one part of a buffer into another, and those that land more than
64 KiB past its end, are not detected.

    gcc -O2 -shared -fPIC -o guard_pages.so guard_pages.c -ldl -lpthread
    LD_PRELOAD=./guard_pages.so python ...

Stands in for the aligned allocations of the C library, and for TensorFlow's allocator
of the CPU, which would cut large buffers from one region. Linux with glibc, 64 bits.
Each live buffer takes three mappings: raise vm.max_map_count for long runs. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define GUARD (16 * PAGE)
#define REGION (16UL << 40)
#define BEFORE 0xA5
#define AFTER 0x5A

extern void __libc_free(void *);
extern void *__libc_realloc(void *, size_t);

/* A page before each buffer. Its last word points to itself. */
typedef struct Header {
    size_t size, pages;
    unsigned char *buffer;
    struct Header *earlier, *later;
} Header;

static unsigned char *region, *next;
static Header *live;
static unsigned long buffers, bytes, tensors;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *message) {
    fprintf(stderr, "guard_pages: %s\n", message);
    abort();
}

static void *allocate(size_t alignment, size_t size) {
    if (alignment < 16) alignment = 16;
    size_t pages = (size + alignment + PAGE - 1) / PAGE;
    pthread_mutex_lock(&lock);
    if (!region) {
        region = next = mmap(0, REGION, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED) fail("no address space");
    }
    unsigned char *start = next;
    next += (pages + 1) * PAGE + GUARD;
    if (next > region + REGION) fail("address space is used up");
    unsigned char *end = start + (pages + 1) * PAGE;
    if (mprotect(start, end - start, PROT_READ | PROT_WRITE) ||
        mprotect(end, GUARD, PROT_READ))
        fail("no more mappings: raise vm.max_map_count");
    unsigned char *buffer =
        (unsigned char *)((uintptr_t)(end - size) & ~(alignment - 1));
    Header *header = (Header *)start;
    *header = (Header){size, pages, buffer, 0, live};
    if (live) live->earlier = header;
    live = header;
    buffers++;
    bytes += size;
    pthread_mutex_unlock(&lock);
    *(unsigned char **)(start + PAGE - sizeof(void *)) = start;
    memset(start + PAGE, BEFORE, buffer - start - PAGE);
    memset(buffer, 0xFF, size);
    memset(buffer + size, AFTER, end - buffer - size);
    return buffer;
}

static int ours(void *buffer) {
    unsigned char *at = buffer;
    return region && at >= region && at < region + REGION;
}

static Header *header_of(unsigned char *buffer) {
    unsigned char *page = (unsigned char *)((uintptr_t)buffer & ~(PAGE - 1));
    for (int steps = 0; steps < 1 << 16; steps++) {
        page -= PAGE;
        Header *header = (Header *)page;
        if (header->buffer == buffer &&
            *(unsigned char **)(page + PAGE - sizeof(void *)) == page)
            return header;
    }
    fail("freed a pointer that is no start of a buffer");
    return 0;
}

/* Fails if something was written around a buffer; returns the end of its pages. */
static unsigned char *check(Header *header) {
    unsigned char *start = (unsigned char *)header;
    unsigned char *end = start + (header->pages + 1) * PAGE;
    for (unsigned char *at = start + PAGE; at < header->buffer; at++)
        if (*at != BEFORE) fail("wrote before a buffer");
    for (unsigned char *at = header->buffer + header->size; at < end; at++)
        if (*at != AFTER) fail("wrote after a buffer");
    return end;
}

static void release(unsigned char *buffer) {
    Header *header = header_of(buffer);
    unsigned char *end = check(header);
    pthread_mutex_lock(&lock);
    if (header->earlier)
        header->earlier->later = header->later;
    else
        live = header->later;
    if (header->later) header->later->earlier = header->earlier;
    pthread_mutex_unlock(&lock);
    size_t whole = end + GUARD - (unsigned char *)header;
    madvise(header, whole, MADV_DONTNEED);
    mprotect(header, whole, PROT_NONE);
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    *out = allocate(alignment, size);
    return 0;
}

void *aligned_alloc(size_t alignment, size_t size) { return allocate(alignment, size); }

void *memalign(size_t alignment, size_t size) { return allocate(alignment, size); }

void free(void *buffer) {
    if (ours(buffer))
        release(buffer);
    else
        __libc_free(buffer);
}

void *realloc(void *buffer, size_t size) {
    if (!ours(buffer)) return __libc_realloc(buffer, size);
    size_t before = header_of(buffer)->size;
    void *copy = malloc(size);
    memcpy(copy, buffer, before < size ? before : size);
    release(buffer);
    return copy;
}

/* tensorflow::MklCPUAllocator::AllocateRaw(size_t, size_t) and DeallocateRaw(void*). */
void *_ZN10tensorflow15MklCPUAllocator11AllocateRawEmm(void *self, size_t alignment,
                                                       size_t size) {
    (void)self;
    __sync_fetch_and_add(&tensors, 1);
    return allocate(alignment < 64 ? 64 : alignment, size ? size : 1);
}

void _ZN10tensorflow15MklCPUAllocator13DeallocateRawEPv(void *self, void *buffer) {
    (void)self;
    if (buffer) free(buffer);
}

__attribute__((destructor)) static void report(void) {
    for (Header *header = live; header; header = header->later) check(header);
    fprintf(stderr, "guard_pages: %lu buffers, %lu of them tensors, %lu bytes\n", buffers,
            tensors, bytes);
}
