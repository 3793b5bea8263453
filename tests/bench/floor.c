// The least a listener can cost: takes conntrack events off the socket and counts them.
//
// Prints how many on SIGINT or SIGTERM. Waits and lets events gather as ctk does.
#define _GNU_SOURCE
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOTS 4096
#define SLOT_BYTES 1024
#define BUFFER_BYTES (128 << 20)
#define NEW_UPDATE_DESTROY 7
#define GATHER_US 10000

static volatile sig_atomic_t stopping;

static void stop(int number)
{
	(void)number;
	stopping = 1;
}

int main(void)
{
	static char buffer[SLOTS * SLOT_BYTES];
	static struct iovec parts[SLOTS];
	static struct mmsghdr messages[SLOTS];
	struct sockaddr_nl me = { .nl_family = AF_NETLINK, .nl_groups = NEW_UPDATE_DESTROY };
	int size = BUFFER_BYTES;
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) ||
	    bind(s, (struct sockaddr *)&me, sizeof me)) {
		perror("netlink socket");
		return 1;
	}
	for (int i = 0; i < SLOTS; i++) {
		parts[i] = (struct iovec){ buffer + i * SLOT_BYTES, SLOT_BYTES };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	signal(SIGINT, stop);
	signal(SIGTERM, stop);
	long events = 0;
	while (!stopping) {
		struct pollfd ready = { .fd = s, .events = POLLIN };
		if (poll(&ready, 1, 250) <= 0)
			continue;
		usleep(GATHER_US);
		int n;
		do {
			n = recvmmsg(s, messages, SLOTS, MSG_DONTWAIT, NULL);
			if (n > 0)
				events += n;
		} while (n == SLOTS);
	}
	printf("%ld\n", events);
	return 0;
}
