/*
 * The innermost part of the relay: waits for events, and moves bytes between joined descriptors.
 *
 * Everything else is Python's: it accepts, connects, joins two connected sockets, and gets back
 * each event that is more than bytes that were read and taken whole. vsock_proxy/relay/flow.py is
 * the reference: what is done here is what Flow.pump does while nothing is in its way.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "pump.h"

const char *pump_build(void)
{
    return PUMP_BUILD;
}

/* Move bytes from `fd` to `sink`; return whether something is left to Python. */
static int move(struct pump *p, int fd, int sink, struct left *left)
{
    for (int reads = p->reads; reads > 0; reads--) {
        ssize_t got = recv(fd, p->buffer, p->room, MSG_DONTWAIT);
        if (got < 0) {
            if (errno == EAGAIN)
                return 0;
            left->why = errno == EINTR ? PUMP_MORE : PUMP_NO_SOURCE;
            left->value = (unsigned int)errno;
            return 1;
        }
        if (got == 0) /* The end stays readable: Python reads it again, and passes it on. */
            return 1;
        ssize_t sent = send(sink, p->buffer, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                left->why = PUMP_NO_SINK;
                left->value = (unsigned int)errno;
                return 1;
            }
            sent = 0;
        }
        p->sides[fd].moved += (uint64_t)sent;
        if (sent < got) {
            left->why = PUMP_UNSENT;
            left->value = (unsigned int)(got - sent);
            p->begin = (size_t)sent;
            return 1;
        }
        /* Edge-triggered: a read that does not fill the buffer has emptied the source. */
        if ((size_t)got < p->room)
            return 0;
    }
    left->why = PUMP_MORE;
    return 1;
}

/*
 * Handle events; return how many entries of `left` were filled. Unsent bytes are always the last
 * entry: the buffer is needed for the next read. All is handled when `next` is `count`.
 */
int pump_step(struct pump *p)
{
    int filled = 0;
    while (p->next < p->count) {
        const struct epoll_event *event = &p->ready[p->next++];
        int fd = event->data.fd;
        const struct side *side = fd >= 0 && fd < p->size ? &p->sides[fd] : NULL;
        int plain = (event->events & ~(uint32_t)(EPOLLIN | EPOLLOUT)) == 0;
        struct left *left = &p->left[filled];
        *left = (struct left){fd, PUMP_EVENT, event->events};
        if (side == NULL || side->peer < 0 || side->blocked || !plain) {
            filled++;
        } else if (event->events & EPOLLIN) {
            filled += move(p, fd, side->peer, left);
            if (left->why == PUMP_UNSENT)
                break;
        }
    }
    return filled;
}

/* Wait for events, at most `milliseconds`. A signal ends the wait. Return 0, or an error. */
int pump_wait(struct pump *p, int milliseconds)
{
    p->next = 0;
    p->count = epoll_wait(p->epoll, p->ready, p->most, milliseconds);
    if (p->count >= 0)
        return 0;
    p->count = 0;
    return errno == EINTR ? 0 : errno;
}
