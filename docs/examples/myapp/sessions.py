"""What the table of sessions holds beside the session itself."""


def device_fields(defaults, session, request):
    return {
        **defaults,
        'user_agent': (request.user_agent or '')[:256],
        'ip': request.remote_addr,
    }
