"""The fixtures of pyramid_sqlasession.pytest_plugin."""
# ruff: noqa: S101

def test_devices(testapp, user, login_session):
    login_session(testapp, user_id=user.id)
    assert len(testapp.get('/devices').json['devices']) == 1


def test_idle_timeout(app, testapp, user, login_session, freeze_sessions):
    clock = freeze_sessions(app)
    login_session(testapp, user_id=user.id)
    clock.advance(hours=25)
    assert testapp.get('/').json['user'] is None
